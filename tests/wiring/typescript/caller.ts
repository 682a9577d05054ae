// Writes a request, in base64, with the classes that protoc has made of the protos.
import { create, toBinary } from "@bufbuild/protobuf";
import { ModeratePostRequestSchema, ModerationService } from "./moderation/v1/moderation_service_pb.js";
import { Outcome } from "./moderation/v1/verdict_pb.js";

const request = create(ModeratePostRequestSchema, {
  post: { id: "1", text: "hello", images: [{ source: { case: "data", value: new Uint8Array([1, 2, 3]) } }] },
  requestId: `${Outcome.REMOVE} ${ModerationService.method.moderatePost.name === "ModeratePost"}`,
});
console.log(btoa(String.fromCharCode(...toBinary(ModeratePostRequestSchema, request))));
