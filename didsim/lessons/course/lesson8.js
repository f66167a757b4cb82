// All steps of lesson 8 come with the page: they need the solver, closed forms of sequences, or training.
