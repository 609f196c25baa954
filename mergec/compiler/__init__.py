"""From a recipe and checkpoint headers to a plan; pure, and reads no weight."""
