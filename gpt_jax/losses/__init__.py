"""Pure loss functions: `loss(params, batch, key) -> (numerator, denominator, metrics)`."""
