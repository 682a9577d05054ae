// Command caller writes a request, in base64, with the classes that protoc has made of the protos.
package main

import (
	"encoding/base64"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	moderationv1 "caller.test/moderation/v1"
)

func main() {
	connection, err := grpc.NewClient("localhost:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	var client moderationv1.ModerationServiceClient = moderationv1.NewModerationServiceClient(connection)
	image := &moderationv1.Image{Source: &moderationv1.Image_Data{Data: []byte{1, 2, 3}}}
	request := &moderationv1.ModeratePostRequest{
		Post:      &moderationv1.Post{Id: "1", Text: "hello", Images: []*moderationv1.Image{image}},
		RequestId: fmt.Sprint(moderationv1.Outcome_OUTCOME_REMOVE.Number(), client != nil),
	}
	bytes, err := proto.Marshal(request)
	if err != nil {
		panic(err)
	}
	fmt.Println(base64.StdEncoding.EncodeToString(bytes))
}
