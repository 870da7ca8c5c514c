"""Networks, and steps of them, as a device can take them."""
