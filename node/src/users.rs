//! People: root user, default roles, permissions, password policy.
