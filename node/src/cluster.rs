//! Instances of this node and its place among the others: identity, signs of life, leases.
