"""The bundled checkpoints, each with a card that states how it was made and what it can do."""
