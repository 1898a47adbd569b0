"""What every other package stands on: the environment of our processes, their locks, leases, addresses and errors."""
