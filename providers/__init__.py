"""Where machines are rented: one file per cloud behind one small protocol (`contract.py`)."""
