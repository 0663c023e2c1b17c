;; Places: how many requests are under way, of an endpoint and of each of its callers. places.py tells why. After a
;; change here, `make places` makes places.wasm of it.
;;
;; A request that comes takes a place in up to two counts and, when it ends, gives them back: Envoy destroys the filter of
;; every stream, however that ends, and then calls proxy_on_done. What a request took is written down by its number, so
;; that it gives back the same whatever has become of its routes.
;;
;; The counts are in Proxy-Wasm's shared data, which the workers have in common, as 256 lists of entries of 16 bytes: the
;; number of a count (64 bits) and what it stands at (32). A count at 0 is taken off its list, so what is there is never
;; more than what is under way. A list is replaced only by who has seen it as it is (compare and swap); others try again.
;; The number of a count is a SipHash-2-4 (https://www.aumasson.jp/siphash/siphash.pdf) of its name, with a key that
;; nobody outside knows: who can choose a caller's name cannot choose whose places it takes.
;;
;; What an endpoint's routes say is one text, `crossfade.limits` → `places` in the metadata of their virtual host:
;;   7 digits     how many of all callers may be under way; 0: not limited
;;   7 digits     of each caller
;;   the endpoint's name, and a bar
;;   the path of the property by which a caller is known, its parts with a zero byte between them
;;
;; Memory:
;;         0  what the host answers: an address, a length, the state of a list that was read
;;        16  which list
;;        64  texts
;;      4096  the first of the notes on requests whose number ends in these 12 bits
;;     65536  what the host writes during one call (1 MiB)
;;   1118208  notes of 24 bytes: the number of the request, the next note of its chain, the two counts (0: none)
(module
  (import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 18)
  (data (i32.const 64) "xds\00virtual_host_metadata\00filter_metadata\00crossfade.limits\00places")
  (data (i32.const 144) "concurrency")
  (data (i32.const 160) "concurrency_per_caller")

  (global $free (mut i32) (i32.const 65536))   ;; where the host writes next
  (global $end (mut i32) (i32.const 1118208))  ;; of all notes
  (global $spare (mut i32) (i32.const 0))      ;; a chain of notes that are free
  (global $key0 (mut i64) (i64.const 0))
  (global $key1 (mut i64) (i64.const 0))

  (func (export "proxy_abi_version_0_2_1"))

  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (if (i32.gt_u (local.get $size) (i32.sub (i32.const 1114104) (global.get $free))) (then (return (i32.const 0))))
    (local.set $at (global.get $free))
    (global.set $free
      (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.get $at))

  ;; The secret is the configuration of the VM. The lists are there before the first request: nobody could say that he
  ;; has seen one that is not.
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32)
    (local $list i32)
    (if (i32.or (i32.ne (local.get $size) (i32.const 16))
                (call $get_buffer_bytes (i32.const 6) (i32.const 0) (i32.const 16) (i32.const 0) (i32.const 4)))
      (then (return (i32.const 0))))
    (global.set $key0 (i64.load (i32.load (i32.const 0))))
    (global.set $key1 (i64.load offset=8 (i32.load (i32.const 0))))
    (loop $next
      (global.set $free (i32.const 65536))
      (i32.store (i32.const 16) (local.get $list))
      (if (call $get_shared_data (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const 8))
        (then (drop (call $set_shared_data
          (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)))))
      (local.set $list (i32.add (local.get $list) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $list) (i32.const 256))))
    (i32.const 1))

  ;; Whether it may go on (0), or is refused and answered (1).
  (func (export "proxy_on_request_headers") (param $request i32) (param $headers i32) (param $is_all i32) (result i32)
    (local $rule i32) (local $end i32) (local $bar i32) (local $of_all i32) (local $of_each i32)
    (local $endpoint i64) (local $caller i64)
    (global.set $free (i32.const 65536))
    (if (call $get_property (i32.const 64) (i32.const 65) (i32.const 0) (i32.const 4)) (then (return (i32.const 0))))
    (local.set $rule (i32.load (i32.const 0)))
    (local.set $end (i32.add (local.get $rule) (i32.load (i32.const 4))))
    (local.set $of_all (call $number (local.get $rule)))
    (local.set $of_each (call $number (i32.add (local.get $rule) (i32.const 7))))
    (local.set $rule (i32.add (local.get $rule) (i32.const 14)))
    (local.set $bar (local.get $rule))
    (loop $next
      (if (i32.ne (i32.load8_u (local.get $bar)) (i32.const 124))
        (then
          (local.set $bar (i32.add (local.get $bar) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $bar) (local.get $end))))))
    (local.set $endpoint
      (call $siphash (i64.const 0) (local.get $rule) (i32.sub (local.get $bar) (local.get $rule))))
    (if (local.get $of_each)
      (then
        (local.set $bar (i32.add (local.get $bar) (i32.const 1)))
        ;; Callers that say nothing of themselves are one.
        (if (call $get_property
              (local.get $bar) (i32.sub (local.get $end) (local.get $bar)) (i32.const 0) (i32.const 4))
          (then (i32.store (i32.const 4) (i32.const 0))))
        (local.set $caller
          (call $siphash (local.get $endpoint) (i32.load (i32.const 0)) (i32.load (i32.const 4))))
        (if (i32.eqz (call $take (local.get $caller) (local.get $of_each)))
          (then (return (call $refuse (i32.const 160) (i32.const 22)))))))
    (if (local.get $of_all)
      (then
        (if (i32.eqz (call $take (local.get $endpoint) (local.get $of_all)))
          (then
            (if (local.get $of_each) (then (call $give_back (local.get $caller))))
            (return (call $refuse (i32.const 144) (i32.const 11))))))
      (else (local.set $endpoint (i64.const 0))))
    (call $write_down (local.get $request) (local.get $endpoint) (local.get $caller))
    (i32.const 0))

  (func (export "proxy_on_done") (param $request i32) (result i32)
    (local $link i32) (local $note i32)
    (local.set $link (call $chain (local.get $request)))
    (loop $next
      (local.set $note (i32.load (local.get $link)))
      (if (i32.eqz (local.get $note)) (then (return (i32.const 1))))
      (if (i32.ne (i32.load (local.get $note)) (local.get $request))
        (then
          (local.set $link (i32.add (local.get $note) (i32.const 4)))
          (br $next))))
    (i32.store (local.get $link) (i32.load offset=4 (local.get $note)))
    (i32.store offset=4 (local.get $note) (global.get $spare))
    (global.set $spare (local.get $note))
    (if (i64.ne (i64.load offset=8 (local.get $note)) (i64.const 0))
      (then (call $give_back (i64.load offset=8 (local.get $note)))))
    (if (i64.ne (i64.load offset=16 (local.get $note)) (i64.const 0))
      (then (call $give_back (i64.load offset=16 (local.get $note)))))
    (i32.const 1))

  ;; local_replies.py finds the words by the details.
  (func $refuse (param $details i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (i32.const 0))  ;; no more headers
    (drop (call $send_local_response
      (i32.const 429) (local.get $details) (local.get $length)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 8)))
    (i32.const 1))

  (func $number (param $at i32) (result i32)
    (local $end i32) (local $number i32)
    (local.set $end (i32.add (local.get $at) (i32.const 7)))
    (loop $next
      (local.set $number
        (i32.add (i32.mul (local.get $number) (i32.const 10))
                 (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (local.get $number))

  ;; -- counts

  ;; Whether there was a place.
  (func $take (param $count i64) (param $most i32) (result i32)
    (local $list i32) (local $size i32) (local $entry i32)
    (loop $again
      (local.set $list (call $read (local.get $count)))
      (local.set $size (i32.load (i32.const 4)))
      (local.set $entry (call $find (local.get $count) (local.get $list) (local.get $size)))
      (if (local.get $entry)
        (then
          (if (i32.ge_u (i32.load offset=8 (local.get $entry)) (local.get $most)) (then (return (i32.const 0))))
          (i32.store offset=8 (local.get $entry) (i32.add (i32.load offset=8 (local.get $entry)) (i32.const 1))))
        (else
          (local.set $entry (i32.add (local.get $list) (local.get $size)))
          (i64.store (local.get $entry) (local.get $count))
          (i64.store offset=8 (local.get $entry) (i64.const 1))
          (local.set $size (i32.add (local.get $size) (i32.const 16)))))
      (br_if $again (call $has_changed (local.get $list) (local.get $size))))
    (i32.const 1))

  (func $give_back (param $count i64)
    (local $list i32) (local $size i32) (local $entry i32) (local $last i32)
    (loop $again
      (local.set $list (call $read (local.get $count)))
      (local.set $size (i32.load (i32.const 4)))
      (local.set $entry (call $find (local.get $count) (local.get $list) (local.get $size)))
      (if (i32.eqz (local.get $entry)) (then (return)))
      (i32.store offset=8 (local.get $entry) (i32.sub (i32.load offset=8 (local.get $entry)) (i32.const 1)))
      (if (i32.eqz (i32.load offset=8 (local.get $entry)))
        (then
          (local.set $size (i32.sub (local.get $size) (i32.const 16)))
          (local.set $last (i32.add (local.get $list) (local.get $size)))
          (i64.store (local.get $entry) (i64.load (local.get $last)))
          (i64.store offset=8 (local.get $entry) (i64.load offset=8 (local.get $last)))))
      (br_if $again (call $has_changed (local.get $list) (local.get $size)))))

  ;; The list that the count is on, or would be. Its length is at 4, its state at 8, and behind it is room.
  (func $read (param $count i64) (result i32)
    (global.set $free (i32.const 65536))
    (i32.store (i32.const 16) (i32.and (i32.wrap_i64 (local.get $count)) (i32.const 255)))
    (if (call $get_shared_data (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const 8))
      (then (unreachable)))
    (if (result i32) (i32.load (i32.const 4)) (then (i32.load (i32.const 0))) (else (global.get $free))))

  ;; Replaces the list that was read last, unless somebody else has changed it since.
  (func $has_changed (param $list i32) (param $size i32) (result i32)
    (call $set_shared_data
      (i32.const 16) (i32.const 4) (local.get $list) (local.get $size) (i32.load (i32.const 8))))

  (func $find (param $count i64) (param $entry i32) (param $size i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $entry) (local.get $size)))
    (loop $next
      (if (i32.eq (local.get $entry) (local.get $end)) (then (return (i32.const 0))))
      (if (i64.eq (i64.load (local.get $entry)) (local.get $count)) (then (return (local.get $entry))))
      (local.set $entry (i32.add (local.get $entry) (i32.const 16)))
      (br $next))
    (unreachable))

  ;; -- notes

  (func $chain (param $request i32) (result i32)
    (i32.add (i32.const 4096) (i32.shl (i32.and (local.get $request) (i32.const 4095)) (i32.const 2))))

  (func $write_down (param $request i32) (param $endpoint i64) (param $caller i64)
    (local $note i32) (local $chain i32)
    (local.set $note (global.get $spare))
    (if (local.get $note)
      (then (global.set $spare (i32.load offset=4 (local.get $note))))
      (else
        (local.set $note (global.get $end))
        (global.set $end (i32.add (local.get $note) (i32.const 24)))
        (if (i32.gt_u (global.get $end) (i32.shl (memory.size) (i32.const 16)))
          (then (if (i32.eq (memory.grow (i32.const 4)) (i32.const -1)) (then (unreachable)))))))
    (local.set $chain (call $chain (local.get $request)))
    (i32.store (local.get $note) (local.get $request))
    (i32.store offset=4 (local.get $note) (i32.load (local.get $chain)))
    (i64.store offset=8 (local.get $note) (local.get $endpoint))
    (i64.store offset=16 (local.get $note) (local.get $caller))
    (i32.store (local.get $chain) (local.get $note)))

  ;; -- SipHash-2-4, with something mixed into its key: a caller's number differs from endpoint to endpoint

  (global $v0 (mut i64) (i64.const 0))
  (global $v1 (mut i64) (i64.const 0))
  (global $v2 (mut i64) (i64.const 0))
  (global $v3 (mut i64) (i64.const 0))

  (func $round
    (global.set $v0 (i64.add (global.get $v0) (global.get $v1)))
    (global.set $v1 (i64.xor (i64.rotl (global.get $v1) (i64.const 13)) (global.get $v0)))
    (global.set $v0 (i64.rotl (global.get $v0) (i64.const 32)))
    (global.set $v2 (i64.add (global.get $v2) (global.get $v3)))
    (global.set $v3 (i64.xor (i64.rotl (global.get $v3) (i64.const 16)) (global.get $v2)))
    (global.set $v0 (i64.add (global.get $v0) (global.get $v3)))
    (global.set $v3 (i64.xor (i64.rotl (global.get $v3) (i64.const 21)) (global.get $v0)))
    (global.set $v2 (i64.add (global.get $v2) (global.get $v1)))
    (global.set $v1 (i64.xor (i64.rotl (global.get $v1) (i64.const 17)) (global.get $v2)))
    (global.set $v2 (i64.rotl (global.get $v2) (i64.const 32))))

  (func $word (param $word i64)
    (global.set $v3 (i64.xor (global.get $v3) (local.get $word)))
    (call $round)
    (call $round)
    (global.set $v0 (i64.xor (global.get $v0) (local.get $word))))

  (func $siphash (param $mixed i64) (param $at i32) (param $length i32) (result i64)
    (local $key0 i64) (local $whole i32) (local $last i64) (local $shift i64) (local $end i32)
    (local.set $key0 (i64.xor (global.get $key0) (local.get $mixed)))
    (global.set $v0 (i64.xor (local.get $key0) (i64.const 0x736f6d6570736575)))
    (global.set $v1 (i64.xor (global.get $key1) (i64.const 0x646f72616e646f6d)))
    (global.set $v2 (i64.xor (local.get $key0) (i64.const 0x6c7967656e657261)))
    (global.set $v3 (i64.xor (global.get $key1) (i64.const 0x7465646279746573)))
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (local.set $whole (i32.sub (local.get $end) (i32.const 8)))
    (block $rest
      (loop $next
        (br_if $rest (i32.gt_s (local.get $at) (local.get $whole)))
        (call $word (i64.load align=1 (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br $next)))
    (local.set $last (i64.shl (i64.extend_i32_u (local.get $length)) (i64.const 56)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $last
          (i64.or (local.get $last) (i64.shl (i64.load8_u (local.get $at)) (local.get $shift))))
        (local.set $shift (i64.add (local.get $shift) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (call $word (local.get $last))
    (global.set $v2 (i64.xor (global.get $v2) (i64.const 255)))
    (call $round)
    (call $round)
    (call $round)
    (call $round)
    (i64.xor (i64.xor (global.get $v0) (global.get $v1)) (i64.xor (global.get $v2) (global.get $v3))))
)
