"""What `neupol predict` does: several models as one, the forms of its answers, its errors."""
