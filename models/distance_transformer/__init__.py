"""Self-attention biased by encoded distances; its network and its parts."""
