"""What `neupol relax`, `neupol md` and `neupol vib` do: atoms that move by a model's forces."""
