//! A device that computes nothing and checks everything, for tests of the session's loop.
