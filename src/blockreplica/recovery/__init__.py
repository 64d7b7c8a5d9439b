"""Using a replica: getting points back, and knowing that they can be got back."""
