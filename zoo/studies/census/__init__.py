"""`zoo census`: what is in many published adapters, each beside its own null."""
