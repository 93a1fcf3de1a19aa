-- Arguments: namespace. Returns: members, owner, members at most.
local space = space_of(ARGV[1])
if not is_room(space) then
  return { 'refused', 'room not found' }
end
return { 'described', space.live, space.owner, space.max }
