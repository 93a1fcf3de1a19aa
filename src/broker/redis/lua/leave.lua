-- Arguments: place, fingerprint, session, namespace.
if not is_alive(ARGV[1]) then
  return lapsed()
end
if is_stale(ARGV[2], ARGV[1] .. ':' .. ARGV[3]) then
  return { 'stale' }
end
withdraw(ARGV[4], ARGV[2])
leave(ARGV[4], ARGV[2])
return { 'done' }
