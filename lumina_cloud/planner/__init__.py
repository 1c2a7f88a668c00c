"""What training takes, before anything is rented: pure functions from a workload and a machine to an estimate."""
