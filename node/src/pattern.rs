//! JavaScript's regular expressions with a bound on their work.
