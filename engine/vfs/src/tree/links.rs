//! Hard-link groups.
