"""What makes a training set of aligned faces from raw photographs."""
