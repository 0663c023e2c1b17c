-- wrk script: POST the files named by the arguments, one after the other; print the summary as one line of JSON.
-- An argument with ": " in it is a header instead.
local bodies, turn = {}, 0

function init(args)
  for _, argument in ipairs(args) do
    local name, value = argument:match("^([%w-]+): (.*)$")
    if name then
      wrk.headers[name] = value
    else
      local file = assert(io.open(argument, "rb"))
      bodies[#bodies + 1] = file:read("*a")
      file:close()
    end
  end
  wrk.method = "POST"
  for at, body in ipairs(bodies) do
    bodies[at] = wrk.format(nil, nil, nil, body)
  end
end

function request()
  turn = turn % #bodies + 1
  return bodies[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "refused": %d, "broken": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
