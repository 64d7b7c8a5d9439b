"""blockreplica: block-level replication of virtual disk images."""
