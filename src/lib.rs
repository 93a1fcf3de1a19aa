//! peer-server: lets two strangers' programs find each other and connect.

pub mod ids;
pub mod mailbox;
pub mod message;
pub mod shard;
