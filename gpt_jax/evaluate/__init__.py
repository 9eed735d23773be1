"""How good models are: their answers, their likelihoods, and what sets them apart."""
