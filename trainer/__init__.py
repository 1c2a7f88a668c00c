"""The program that trains: it is shipped to the rented machine and runs there alone."""
