"""Problems whose answers can be checked, and the graders that check them."""
