"""The sandbox: three clouds emulated on this machine. It knows nothing of the clients, nor of anything else in this project."""
