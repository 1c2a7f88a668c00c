"""What everything else stands on: errors, the edge to the outside, clock, money, units, untrusted text."""
