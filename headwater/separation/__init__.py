"""Speech separation: networks, losses, metrics and inference that several tasks and programs share."""
