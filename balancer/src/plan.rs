//! What should be: services, groups, backends, policies. Pure data and its differences.
