//! rtnetlink(7), sock_diag(7) and the ioctls of netdevice(7), on the [`tables`](super::tables).
