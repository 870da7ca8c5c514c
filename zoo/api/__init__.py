"""What `import zoo` offers: adapters on any network, in anyone's training loop."""
