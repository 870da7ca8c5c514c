"""What is measured: cases in the order of their worth, and their floors."""
