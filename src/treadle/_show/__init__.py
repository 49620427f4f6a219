"""What people look at: progress and dump. Stands on _core alone."""
