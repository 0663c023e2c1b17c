-- What stands between Envoy and a Triton: names are translated, and what crashes or misleads a Triton is refused.
-- triton.py fills in what is between @, joins this file to those that it leans on, and says where this runs and what it
-- costs.
--
-- It runs once for every attempt. The attempts of a request share its headers, not its body: an attempt must begin from
-- the path that the route chose, and put back what a replica of ours needs after a Triton did not get it.

-- What is known of the host of an attempt. In the chain of a deployment's own cluster: a table. In a shield's, whose
-- hosts differ: nil, and their metadata tell.
local OWN = @OWN@

local function facts_of(served)
  local model, number, version, limit, only = string.match(served, "^=([^|]+)|([^|]*)|([^|]*)|([^|]*)|([^|]*)")
  return model and { model = model, number = number, version = version, limit = tonumber(limit), only = only }
end

-- Requests

-- Waits, and what `handle` gave before is not valid afterwards: headers must be asked for again.
local function whole_body(handle)
  local body = handle:body()
  return body, body and body:getBytes(0, body:length()) or ""
end

-- Takes a coding away, which an attempt after this one finds again.
local function taken_coding(headers, name)
  local coding = headers:get(name)
  if coding then
    headers:remove(name)
    headers:replace("@CODING@", name .. ":" .. coding)
  end
  return coding
end

local function put_back_coding(headers)
  local name, coding = string.match(headers:get("@CODING@") or "", "^(.-):(.*)$")
  if name then
    headers:replace(name, coding)
    headers:remove("@CODING@")
  end
end

local function check_infer(handle, limit)
  local coding = taken_coding(handle:headers(), "content-encoding")
  local body, text = whole_body(handle)
  local headers = handle:headers()
  if coding then
    text = inflated(text, coding, limit)
    body:setBytes(text)
    headers:replace("content-length", tostring(#text))
  end
  local said = headers:get("inference-header-content-length")
  if not said then
    return check_json(text, #text)
  end
  local length = find(said, "^%d+$") and tonumber(said) or #text + 1
  if length > #text then
    refused("inference-header-content-length is no length within the body")
  end
  headers:replace("inference-header-content-length", said) -- once
  if length > 0 then
    check_json(sub(text, 1, length), #text)
  end
end

-- What is between the client and this gateway. And no reply may be compressed: it could not be given its names.
local WITHHELD = { "@TOKEN_HEADER@", "authorization", "cookie", "azureml-model-deployment", "accept-encoding" }

local HTTP_CALLS = { ["POST/infer"] = true, ["GET"] = true, ["GET/ready"] = true, ["GET/config"] = true, ["GET/stats"] = true }

-- Returns the status and the words of a refusal, or nothing.
local function for_triton(handle, facts, path)
  local headers = handle:headers()
  local model, number = facts.model, facts.number
  local rest = string.match(path, "^/v2/models/[^/]+/versions/[^/]+(.*)$") or string.match(path, "^/v2/models/[^/]+(.*)$")
  local method = rest and string.match(rest, "^/(Model%a+)$")
  if method then
    headers:replace(":path", "/@SERVICE@/" .. method)
    headers:replace("grpc-accept-encoding", "identity")
    if OWN and method ~= "ModelInfer" then
      handle:streamInfo():dynamicMetadata():set("@METADATA@", "method", method)
    end
  end
  local coding = method and taken_coding(headers, "grpc-encoding")
  if method == "ModelStreamInfer" then
    headers:remove("content-length") -- of a chunk, from the attempt before
    return pass_stream(handle, requests_of(facts, path, coding))
  elseif method then
    local body, text = whole_body(handle)
    local first, last
    text, first, last = plain_message(text, 1, #text, coding, facts.limit)
    local message = translated_message(text, first, last, method, model, number)
    body:setBytes(message)
    handle:headers():replace("content-length", tostring(#message))
    return
  end
  if facts.only == "grpc" then
    return "502", "@GRPC_ONLY@" -- which a shield heeds; 501 is what Envoy says of a transfer coding
  elseif not rest or not HTTP_CALLS[headers:get(":method") .. rest] then
    return "404", "no such call"
  end
  headers:replace(":path", "/v2/models/" .. model .. (number ~= "" and "/versions/" .. number or "") .. rest)
  if rest == "/infer" then
    check_infer(handle, facts.limit)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get("@ROUTED_PATH@")
  local is_again = path ~= nil
  if not is_again then
    path = headers:get(":path")
    headers:add("@ROUTED_PATH@", path)
  else
    put_back_coding(headers)
  end
  local facts = OWN
  if not facts then
    facts = facts_of(headers:get("@UPSTREAM@"))
    headers:remove("@UPSTREAM@")
  end
  if not facts then
    headers:replace(":path", path)
    headers:replace("@TOKEN_HEADER@", "@TOKEN@")
    if is_again and headers:get("@STREAM@") then
      headers:remove("content-length")
    elseif is_again then
      local body = handle:body()
      if body then
        handle:headers():replace("content-length", tostring(body:length())) -- a Triton's message was of another length
      end
    end
    return
  end
  for _, name in ipairs(WITHHELD) do
    headers:remove(name)
  end
  local is_fine, status, text = pcall(for_triton, handle, facts, path)
  if not is_fine then
    local refusal = as_refusal(status)
    status, text = refusal.status, refusal.text
  end
  if status then
    handle:respond({ [":status"] = status }, text) -- local_replies.py says it in the client's protocol
  end
end

-- Replies

local JSON_NAMES = {
  { '"model_name":"', '^,"model_version":"[^"]*"', ',"model_version":"', '"' }, -- infer
  { '"name":"', '^,"versions":%[[^%]]*%]', ',"versions":["', '"]' }, -- metadata
  { '"name":"', '^,"version":"[^"]*"', ',"version":"', '"' }, -- statistics
  { '"name":"', "^", "", nil }, -- configuration
}

local function renamed_json(text, model, endpoint, version)
  for _, names in ipairs(JSON_NAMES) do
    local from, to = find(text, names[1] .. model .. '"', 1, true)
    local _, stop = find(text, names[2], (to or #text) + 1)
    if from and stop then
      local described = names[4] and names[3] .. version .. names[4] or ""
      return sub(text, 1, from - 1) .. names[1] .. endpoint .. '"' .. described .. sub(text, stop + 1)
    end
  end
  return text
end

local function renamed_message(text, method, endpoint, version)
  if #text < HEAD or byte(text, 1) ~= 0 then
    return text
  elseif method == "ModelMetadata" then
    return framed(renamed(text, 6, #text, endpoint, version))
  elseif method == "ModelStatistics" or method == "ModelConfig" then
    local inner = {}
    each_field(text, 6, #text, function(_, _, _, from, to)
      inner[#inner + 1] = as_field(1, renamed(text, from, to, endpoint, method == "ModelStatistics" and version or nil))
    end)
    return framed(table.concat(inner))
  end
  return text
end

-- What has come of a reply to ModelInfer, with other names; nil when more must come before that can be done. Protobuf is
-- written in the order of its numbers, so the names stand first.
local function renamed_begin(text, endpoint, version)
  if #text < HEAD then
    return nil
  elseif byte(text, 1) ~= 0 then
    return text
  end
  local at, last = HEAD + 1, HEAD + length_after(text, 1)
  while at <= last do
    if #text < last and #text < at + MAX_HEAD then
      return nil
    end
    local number, wire, _, stop = field_at(text, at, last)
    if number > 2 or wire ~= 2 then
      break
    elseif stop > #text then
      return nil
    end
    at = stop + 1
  end
  local names = as_field(1, endpoint) .. as_field(2, version)
  return head_of(#names + last - at + 1) .. names .. sub(text, at)
end

-- What follows the names is not waited for.
local function rename_reply(handle, endpoint, version)
  local came = ""
  for chunk in handle:bodyChunks() do
    came = came .. chunk:getBytes(0, chunk:length())
    local is_fine, changed = pcall(renamed_begin, came, endpoint, version)
    if not is_fine then
      changed = came
    end
    chunk:setBytes(changed or "")
    if changed then
      return
    end
  end
end

-- Of what Triton says with a status that blames it: what the caller did, and what was not begun.
local function judged(handle, status)
  local said = status and select(2, whole_body(handle)) or handle:headers():get("grpc-message") or ""
  local headers = handle:headers()
  if find(said, "Request for unknown model", 1, true) or (status and find(said, "Model version not ready", 1, true)) then
    headers:replace("@RETRY_HEADER@", "1")
    headers:replace(status and ":status" or "grpc-status", status and "503" or "14")
  elseif status == "500" and find(said, '^{"error":"Unable to %a+ ') then
    headers:replace(":status", "400")
  end
  if status then
    headers:replace("content-type", "application/json")
  end
end

-- Whom this reply is of, and which method it answers; nil over HTTP.
local function answered(handle, headers)
  if OWN then
    local noted = OWN.is_grpc and handle:streamInfo():dynamicMetadata():get("@METADATA@")
    return OWN, OWN.endpoint, OWN.is_grpc and (noted and noted.method or "ModelInfer") or nil
  end
  local said = headers:get("@UPSTREAM@") or ""
  headers:remove("@UPSTREAM@")
  local endpoint, called = string.match(said, "|/v2/models/([^/|]+)[^|]*|(.*)$")
  return facts_of(said), endpoint, called and string.match(called, "^/@SERVICE@/(%a+)$")
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local facts, endpoint, method = answered(handle, headers)
  if not facts then
    return
  end
  local failure = method and headers:get("grpc-status") or headers:get(":status")
  if failure and failure ~= "0" and failure ~= "200" then
    return judged(handle, not method and failure or nil)
  end
  if method == "ModelStreamInfer" then
    return pass_stream(handle, replies_of(endpoint, facts.version))
  elseif facts.is_same then
    return
  elseif method == "ModelInfer" then
    headers:remove("content-length")
    return rename_reply(handle, endpoint, facts.version)
  end
  local body, text = whole_body(handle)
  if text == "" then
    return
  end
  local changed = method and renamed_message(text, method, endpoint, facts.version)
    or renamed_json(text, facts.model, endpoint, facts.version)
  headers = handle:headers()
  if not method and headers:get("inference-header-content-length") then
    local length = tonumber(headers:get("inference-header-content-length"))
    headers:replace("inference-header-content-length", tostring(length + #changed - #text))
  end
  body:setBytes(changed)
  if headers:get("content-length") then
    headers:replace("content-length", tostring(#changed))
  end
end
