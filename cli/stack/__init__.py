"""The local stack: real Kafka, Redis and Flink and Herald's own processes, under one supervisor, in one directory."""
