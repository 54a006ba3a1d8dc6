"""Metrics of 8-bit pictures: f(output, target) -> [B] float64, one number per picture; the score is their mean. Of masks (miou): one for a data set."""
