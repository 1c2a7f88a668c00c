"""How a machine is reached: the box, the bundle that goes onto it, the bootstrap, and what is fetched back."""
