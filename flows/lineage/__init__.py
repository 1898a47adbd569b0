"""From any number or file back to the data: verify it, make it again, promote it."""
