"""What commands do, without the command line: generators of typed records that print nothing."""
