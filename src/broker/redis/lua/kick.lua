-- Arguments: place, fingerprint, session, namespace, target or ''.
local ns, target = ARGV[4], ARGV[5]
if not is_alive(ARGV[1]) then
  return lapsed()
end
if is_stale(ARGV[2], ARGV[1] .. ':' .. ARGV[3]) then
  return { 'stale' }
end
local space = space_of(ns)
if not is_room(space) then
  return { 'refused', 'room not found' }
end
if space.owner ~= ARGV[2] then
  return { 'refused', 'only room owner can kick' }
end
local entry = call('HGET', 'peer:r:' .. ns, target)
if not entry or not is_listed(place_of(entry)) then
  return { 'refused', 'peer not found' }
end
withdraw(ns, target)
leave(ns, target, ARGV[2])
return { 'done' }
