-- Arguments: namespace. Returns: who is there.
return { 'roster', roster(space_of(ARGV[1])) }
