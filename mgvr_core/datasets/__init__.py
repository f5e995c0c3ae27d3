"""Which videos there are, which texts ask for them, and the corpus that the project makes itself."""
