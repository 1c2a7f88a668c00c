"""What Python users call, and what the command line and the pages are written on."""
