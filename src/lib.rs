//! peer-server.
