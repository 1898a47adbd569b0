"""What Prefect schedules: the flows that prefect.yaml names, their forms, and the clone that each runs in."""
