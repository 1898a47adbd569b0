"""What running work says of itself: reports, events and system metrics, as lines of JSON that anybody may follow."""
