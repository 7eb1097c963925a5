"""The wire contract, shared by the client and the service: what bytes mean, and nothing about HTTP.

`json` and `safetensors` turn bodies into documents and back, `tensors` turns the JSON form of a
tensor into an array and back, `errors` holds the fault of a body and the shape of an error answer,
`messages` states the types of requests and responses. Only NumPy and the standard library are used.
"""
