"""What a representation does, without a task: how it answers to noise, where it attends, and which of its layers finished runs chose."""
