-- Arguments: place, fingerprint, session, namespace, name, info, members at most, whether it is refused otherwise.
local place, fingerprint, ns = ARGV[1], ARGV[2], ARGV[4]
if not is_alive(place) then
  return lapsed()
end
local at = place .. ':' .. ARGV[3]
if is_stale(fingerprint, at) then
  return { 'stale' }
end
local space = space_of(ns)
if space.live > 0 then
  return { 'refused', 'room already exists' }
end
if ARGV[8] == '1' then
  return { 'refuse' }
end
begin(space, ARGV[5])
set_terms(space, fingerprint, ARGV[7])
return { 'created', enter(space, fingerprint, at, ARGV[6], false) }
