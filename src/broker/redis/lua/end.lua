-- Arguments: place, fingerprint, session.
if not is_alive(ARGV[1]) then
  return lapsed()
end
if not is_stale(ARGV[2], ARGV[1] .. ':' .. ARGV[3]) then
  end_session(ARGV[2])
end
return { 'done' }
