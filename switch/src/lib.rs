//! User-space Ethernet switch with 802.1Q and virtio-net headers.
