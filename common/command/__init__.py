"""Commands for users: train on data, evaluate, segment scans, export a network, all without paths of configs."""
